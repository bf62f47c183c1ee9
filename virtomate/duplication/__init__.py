"""How volumes get duplicated: names of new volumes, image headers, and the transfers that fill them."""
