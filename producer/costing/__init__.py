"""What calls have cost: added up by whatever somebody asks for, drawn, and compared with the provider's own figures."""
