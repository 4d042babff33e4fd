"""The live teacher of the gateway, as the distillation asks it.

`answers` asks once about each view of a node's own images and keeps what it hears;
`live_teacher` asks in every step, for a method that needs it; `teacher_link` opens the
connection for both. Not here: the calls (edge.link), which answers are used
(edge.distill.sources). Only `live_teacher` may import torch.
"""
