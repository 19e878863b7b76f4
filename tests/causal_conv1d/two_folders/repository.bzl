"""What the C++ toolchain's repository is called here: another name in WORKSPACE mode."""

CC_REPOSITORY = Label("@cc//:cxx.sh").workspace_name
