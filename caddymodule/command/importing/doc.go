// Package importing sends the rows of a file to a running broker, as the subcommand `import`
// does. It converts and checks each row, sends batches in parallel, repeats what the broker
// puts off, and remembers how far it is, so that an import that was interrupted goes on there.
package importing
