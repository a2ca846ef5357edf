"""The edge node's copy of what marketing publishes: campaigns and content items, followed from compacted topics."""
