package journal

import "context"

// Check implements [record.Journal]. It writes and syncs a probe of the size of a large
// entry, and checks that the key in use is the one on disk, which the next process will
// read. A probe serves all checks that were waiting when it began. Errors: [ErrKey],
// [ErrClosed], or an error of the file system.
func (j *Journal) Check(ctx context.Context) error {
	begun := j.probes.Load()
	release, err := j.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if j.probes.Load() > begun { // while this one was waiting
		return j.probed
	}
	j.probes.Add(1)
	if j.probed = j.loadKey(); j.probed == nil {
		j.probed = j.write((*file).probe)
	}
	return j.probed
}
