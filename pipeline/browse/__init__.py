"""A static page that shows what a cache holds: no server, no network, no JavaScript library."""
