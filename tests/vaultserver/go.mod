// The Vault server that the tests run against, built from source.
module github.com/tokenbroker/caddy-token-broker/tests/vaultserver

go 1.26.0
