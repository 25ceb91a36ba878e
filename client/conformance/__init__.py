"""Hold any client to the contract: see README.md."""
