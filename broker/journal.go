package broker

import (
	"context"
	"fmt"
)

// checkJournal returns nil if an answer could be kept that the store does not take.
func (b *Broker) checkJournal(ctx context.Context) error {
	if b.journal == nil {
		return nil
	}
	if err := b.journal.Check(ctx); err != nil {
		return fmt.Errorf("the journal is not writable, so no refresh is begun: %w", err)
	}
	return nil
}
