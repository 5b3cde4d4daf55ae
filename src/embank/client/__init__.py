"""What stands between a service and those who use it: wire types, requests as data, and the typed client."""
