"""The transfer sets: each file knows one layout, what must be there, and how it is read. Nothing is ever downloaded."""
