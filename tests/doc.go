// Package tests contains the end-to-end tests. They start the built binary with a Caddyfile
// and a directory for its files, next to a real OAuth server (package oauthserver) and a real
// Vault, and talk to it over HTTP only.
//
// Files named *_scene_test.go contain no tests but what tests share: processes, servers and
// clients.
package tests
