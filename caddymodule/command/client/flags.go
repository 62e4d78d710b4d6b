package client

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tokenbroker/caddy-token-broker/broker/secret"
	"github.com/tokenbroker/caddy-token-broker/caddymodule/command/sealed"
)

// KeyVariable is the environment variable with the API key. A key in an argument would be
// visible to every user of the machine.
const KeyVariable = "TOKEN_BROKER_API_KEY"

// defaultAddress is where Caddyfile.example serves the API.
const defaultAddress = "http://localhost:8080"

// Usage are the flags of [AddFlags], for the usage line of a command.
const Usage = "[--to <url>] --app <id> [--key-file <path>] [--insecure-http]"

// AddFlags adds the flags that say which broker to talk to, and as whom.
func AddFlags(flags *flag.FlagSet) {
	flags.String("to", defaultAddress, "URL of the broker's connections API")
	flags.String("app", "", "Application that the connections belong to")
	flags.String("key-file", "", "File with the application's API key, in place of "+KeyVariable)
	flags.Bool("insecure-http", false, "Send the API key over plain HTTP to a host that is not loopback")
}

// FromFlags returns the client that the flags of [AddFlags] describe. value returns the value of
// a flag as text.
func FromFlags(value func(name string) string) (*Client, error) {
	key, err := readKey(value("key-file"), os.Stderr)
	if err != nil {
		return nil, err
	}
	return New(value("to"), value("app"), key, value("insecure-http") == "true")
}

// readKey reads the API key from a file, or from the environment if path is empty. It warns if
// other users can read the file, too.
func readKey(path string, warnings io.Writer) (secret.String, error) {
	if path == "" {
		return secret.New(os.Getenv(KeyVariable)), nil
	}
	file, _, err := sealed.Open(path, warnings)
	if err != nil {
		return secret.String{}, fmt.Errorf("reading the API key: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return secret.String{}, fmt.Errorf("reading the API key: %w", err)
	}
	return secret.New(strings.TrimSpace(string(text))), nil
}
