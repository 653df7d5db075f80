"""faiss: approximate neighbours."""
