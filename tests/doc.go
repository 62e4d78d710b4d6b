// Package tests has the end-to-end tests: they start the built binary, with a Caddyfile
// and with files of its own, beside a real OAuth server (package oauthserver) and a real
// Vault, and talk to it over HTTP only.
//
// Files named *_scene_test.go have no tests: they have what tests take place in.
package tests
