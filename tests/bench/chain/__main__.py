from tests.bench.chain.command import main

main()
