"""Media at http(s) URLs: which hosts and addresses may be asked, and the client that asks no others."""
