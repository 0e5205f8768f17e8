"""How well calls are spread over several model servers: prefix caches, balance, waiting, and a server that is lost."""
