"""A student as an ONNX file: what travels in it, writing it, and the gate before it.

`session` runs such a file through onnxruntime, without torch; `encode` makes one from a
student; `gate` measures whether it is still as good, `bounds` says what it may lose.
Needs the extra `export`, to read no more than onnxruntime. Not here: the verbs
(deploy.cli), a node's promoted student (edge.predict).
"""
