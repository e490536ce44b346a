"""The server: a stateless gRPC service over pools of embeddings and sessions in Redis."""
