"""tree_repository: the list of the project's own files, for tests that look at all of them.

files.sha256 has a line `<sha256>  <path>` for each file that .gitignore does not name, root.txt the
path of the checkout. The list is made anew when a file changes, appears or goes, so a test that
reads the checkout through it is cached rightly.
"""

def _tree_impl(rctx):
    root = rctx.workspace_root
    ignored = [".git"] + [line for line in rctx.read(root.get_child(".gitignore")).split("\n") if line]
    prune = []
    for pattern in ignored:
        plain = pattern.removesuffix("/")
        prune += ["-path", "." + plain] if plain.startswith("/") else ["-name", plain]
        prune += ["-prune", "-o"]
    listed = rctx.execute(
        ["find", "."] + prune + ["-type", "f", "-exec", "sha256sum", "{}", "+"],
        working_directory = str(root),
    )
    if listed.return_code != 0:
        fail("cannot list the files of %s: %s" % (root, listed.stderr.strip()))
    found = {line[68:]: line[:64] for line in listed.stdout.split("\n") if line}
    for child in root.readdir():
        if child.basename in found:
            rctx.watch(child)
        elif [path for path in found if path.startswith(child.basename + "/")]:
            rctx.watch_tree(child)
    rctx.file("files.sha256", "".join(["%s  %s\n" % (found[path], path) for path in sorted(found)]))
    rctx.file("root.txt", "%s\n" % root)
    rctx.file("BUILD.bazel", 'exports_files(["files.sha256", "root.txt"])\n')

tree_repository = repository_rule(
    doc = "Names every file of the project with its hash.",
    implementation = _tree_impl,
    local = True,
)
