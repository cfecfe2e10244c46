"""How many words runtimes get wrong on real speech, and how far each is from our float32."""
