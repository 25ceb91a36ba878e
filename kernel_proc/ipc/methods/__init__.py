"""The methods of the requests socket: one module per family, each with a function that returns its routes."""
