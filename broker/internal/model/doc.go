// Package model checks the refresh engine against a model of it. It has tests only: a
// seed draws a world of replicas, a store, a provider and their failures, and every
// token request and every save is checked against what a refresh must never do.
package model
