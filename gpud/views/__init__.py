"""What people see: the world and the store, made into the maps of the protocol."""
