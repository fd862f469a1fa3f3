"""The promises are rehearsed on the user's own machines: processes killed, connections cut, then the books compared."""
