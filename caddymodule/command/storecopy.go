package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/tokenbroker/caddy-token-broker/broker/storecopy"
)

// copy copies the connections of one store into another.
func (c *storeCommand) copy(ctx context.Context) (err error) {
	if c.from == "" || c.to == "" {
		return errors.New("copy needs --from and --to, the configurations that name the two stores")
	}
	if err := c.checkDifferent(); err != nil {
		return err
	}
	from, err := openConfigured(ctx, c.from, c.adapter, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := openConfigured(ctx, c.to, c.adapter, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	fmt.Fprintf(c.out, "copying from %s to %s\n", from.storage, to.storage)
	r, err := storecopy.Copy(ctx, storecopy.Config{From: from.Store, To: to.Store, Replace: c.replace})
	c.printCopied(r)
	switch {
	case err != nil:
		return fmt.Errorf("the copy is not complete; run it again to go on: %w", err)
	case !r.Complete():
		return errors.New("the copy is not complete: see above")
	case r.Verified == 0: // likely its configuration is not the right one
		return fmt.Errorf("there is nothing to copy in %s", from.storage)
	}
	fmt.Fprintf(c.out, "Both stores were read again: the new one has all %d records.\n", r.Verified)
	return nil
}

// checkDifferent returns an error if both configurations name the same store.
func (c *storeCommand) checkDifferent() error {
	var keys [2]string
	for i, path := range []string{c.from, c.to} {
		s, err := resolveStorage(path, c.adapter)
		if err != nil {
			return err
		}
		keys[i] = s.StorageKey()
	}
	if keys[0] == keys[1] {
		return fmt.Errorf("%s and %s name the same store", c.from, c.to)
	}
	return nil
}

func (c *storeCommand) printCopied(r *storecopy.Report) {
	fmt.Fprintf(c.out, "%d connections copied, %d there already, %d deleted ones; %d put into standby in the old store\n",
		r.Copied, r.Present, r.Deleted, r.Standby)
	c.names("copied, but a process died during their refresh, so the refresh token may be spent:", r.Unknown)
	c.names("in the new store already, and not as a copy; left alone (--replace replaces them):", r.Differ)
	c.names("changed in the old store during the copy; run it again:", r.Missing)
}

// names lists names of connections.
func (c *storeCommand) names(title string, n storecopy.Names) {
	items := n.First
	if more := n.Count - len(items); more > 0 {
		items = append(items, fmt.Sprintf("and %d more", more))
	}
	c.list(title, items)
}
