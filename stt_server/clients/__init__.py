"""Programs that talk to the server, and the `Client` beneath them."""
