"""What is legal: graphs, dimension flow, regions, memory, and the space of plans."""
