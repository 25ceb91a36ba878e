"""The methods of the requests socket: one module a family, each a function that makes its routes."""
