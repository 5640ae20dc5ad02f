# The common commands. `just` without arguments lists them.

default:
    @just --list

# Everything that must pass before a change is merged
ci:
    .ci/run

# Format, then lint
lint:
    cargo fmt --all
    cargo clippy --release --all-targets -- -D warnings

# All tests, or those whose name contains a text
test *NAME:
    cargo test --release {{NAME}}

# Tests with nextest: each in its own process
nextest *ARGS:
    cargo nextest run --cargo-profile release {{ARGS}}

# One seed of the simulation, with its time line
sim SEED:
    ARC_ONLY={{SEED}} cargo test --release --test it sim::one_seed -- --nocapture

# Breaks the safety-relevant lines one by one, in a copy: do the tests notice? All, or those whose name contains a text
mutants NAME="" *CARGO:
    ARC_MUTANTS={{NAME}} cargo test --release {{CARGO}} --test it mutations::mutations_that_are_asked_for_are_caught -- --nocapture

# Realistic telemetry, compacted before your eyes
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Fuzz one of file, survey, pages, record, path, configuration; needs cargo-fuzz and a nightly compiler. Ends with Ctrl-C
fuzz TARGET *ARGS:
    mkdir -p fuzz/corpus/{{TARGET}}
    cargo +nightly fuzz run --fuzz-dir fuzz {{TARGET}} {{ARGS}} fuzz/corpus/{{TARGET}} fuzz/seeds/{{TARGET}} -- -timeout=10 -rss_limit_mb=2048

# Licences, advisories and sources of the dependencies
deny:
    cargo deny check
