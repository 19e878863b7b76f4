"""Language models of the ``transformers`` package (4.56 and newer) over a Mustafar cache.

>>> from mustafar.models.llama_mustafar_kernel import LlamaForCausalLM_MUSTAFAR

Nothing of ``transformers`` is copied: the model classes are its own, with an attention function in
its registry and a cache class of ours. ``pip install mustafar[transformers]`` brings it.
"""
