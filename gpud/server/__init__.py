"""The socket: who speaks, what one may have at once, requests in and answers out."""
