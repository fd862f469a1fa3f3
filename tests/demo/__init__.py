"""`make demo` shows the product at work within a minute, with a real model and no key."""
