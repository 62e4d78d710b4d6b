package boltstore

import (
	"context"
	"fmt"
	"path/filepath"
)

// A Report is what [Check] or [Rebuild] found.
type Report struct {
	// Path is the database's file.
	Path string

	// Readable is how many connections can be read as they are.
	Readable int

	// Damage says what is damaged. If it is empty, the store is sound.
	Damage []string

	// Repairable are the connections that cannot be read, and that [Rebuild] can save.
	Repairable []string

	// Lost are the connections that are known to exist, and that cannot be saved.
	Lost []string

	// Changing is set if the store was written to while it was checked, so that Damage may be
	// wrong.
	Changing bool
}

func (v *survey) report(path string) *Report {
	r := &Report{Path: path, Readable: v.direct, Repairable: names(v.repaired), Lost: names(v.lost)}
	for _, problem := range v.problems {
		r.Damage = append(r.Damage, problem.Error())
	}
	return r
}

// maxChecks is how often a store is checked that changes during the check.
const maxChecks = 5

// Check reads the whole store in config.Dir, and changes nothing. Another process may use the store at the
// same time. Errors: [ErrKeyMissing], [ErrKeyMismatch], [ErrDatabaseMissing], or an error of the file
// system.
func Check(ctx context.Context, config Config) (*Report, error) {
	dir := config.Dir
	keys, err := config.source(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, databaseName)
	for attempt := 1; ; attempt++ {
		v, closeFile, err := newSurvey(dir, keys)
		if err != nil {
			return nil, err
		}
		before := v.transaction()
		err = v.checkKey(dir, keys)
		if err == nil {
			err = v.run(ctx, func([]byte, stored) error { return nil })
		}
		changed := v.transaction() != before
		_ = closeFile() // it was only read
		if err != nil {
			return nil, err
		}
		if r := v.report(path); !changed || len(r.Damage) == 0 || attempt == maxChecks {
			r.Changing = changed
			return r, nil
		}
	}
}

// checkKey returns an error if the key belongs to another database, as far as can be read.
func (v *survey) checkKey(dir string, keys keySource) error {
	meta, _, err := v.file.Metas()
	if err != nil {
		return nil //nolint:nilerr // run finds this damage
	}
	root := v.file.Tree(meta.Root, meta.Pages)
	bucket, err := root.Bucket(metaBucket)
	if err != nil || bucket == nil {
		return nil //nolint:nilerr // as above
	}
	check, err := bucket.Get(checkKey)
	if err != nil || check == nil {
		return nil //nolint:nilerr // as above
	}
	if _, err := v.key.Decrypt(check, checkData); err == nil {
		return nil
	}
	if b, err := openBuckets(root); err == nil {
		if decrypts, err := b.anyDecrypts(v.key); !decrypts && err == nil {
			return keys.mismatch(dir)
		}
	}
	v.problem(errCheckDamaged)
	return nil
}

// Rebuild saves what can be read of the store in config.Dir into a new database at path, for the same
// key. Nothing in dir is changed, and no other process may use the store. Errors: those of [Check],
// [ErrLocked], and [os.ErrExist] if there is a file at path.
func Rebuild(ctx context.Context, config Config, path string) (_ *Report, err error) {
	dir, err := filepath.EvalSymlinks(config.Dir)
	if err != nil {
		return nil, err
	}
	keys, err := config.source(dir)
	if err != nil {
		return nil, err
	}
	unlock, err := lockForReading(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, closeFile, err := newSurvey(dir, keys)
	if err != nil {
		return nil, err
	}
	defer func() { _ = closeFile() }() // it is only read
	if err := v.checkKey(dir, keys); err != nil {
		return nil, err
	}
	w, err := newRebuild(path, v.key)
	if err != nil {
		return nil, err
	}
	err = v.run(ctx, w.put)
	for storeKey, s := range v.repaired {
		if err == nil {
			err = w.put([]byte(storeKey), s)
		}
	}
	if err == nil && v.direct+len(v.repaired) == 0 && len(v.problems) > 0 {
		err = fmt.Errorf("%w: nothing in it can be read: restore it from a backup", ErrDamaged)
	}
	if err := w.finish(v.last, err); err != nil {
		return nil, err
	}
	return v.report(filepath.Join(dir, databaseName)), nil
}
