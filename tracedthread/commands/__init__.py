"""The verbs of the command line: one file each, with `add_parser(subparsers)` and `main(args) -> int`."""
