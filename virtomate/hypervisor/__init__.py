"""The only importer of libvirt: connections, domains, pools and volumes, typed, with errors told apart by code."""
