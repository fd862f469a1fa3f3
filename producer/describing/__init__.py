"""Pictures become rows whose bytes are ready to be sent; captions go back beside them."""
