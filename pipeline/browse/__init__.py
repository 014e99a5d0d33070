"""Static page of a cache's content: no server, no network, no JavaScript library."""
