"""Write models as ONNX: the graph, and its weights once and in few bits."""
