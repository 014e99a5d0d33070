"""From caches and sentences to batches: table, order, cursor, reader threads."""
