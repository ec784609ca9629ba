from keeltune.cli import main

main()
