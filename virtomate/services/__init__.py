"""What the tool does: typed requests in, frozen records out. Nothing here prints."""
