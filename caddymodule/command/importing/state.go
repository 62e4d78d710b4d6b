package importing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A state is how far an import is. It is saved after each batch, so that an import that was
// interrupted can go on.
type state struct {
	Input  fingerprint `json:"input"`
	Done   int         `json:"done"`             // all rows up to this one are done
	Beyond []span      `json:"beyond,omitempty"` // further rows that are done, in order
	Tally  tally       `json:"tally"`            // of the rows that are done

	Refused mark `json:"refused"`         // of the file of refused rows
	Next    mark `json:"next"`            // the same after the write that is in progress
	Moved   int  `json:"moved,omitempty"` // refused rows that were moved from that file
}

// A span is rows in sequence, both ends included.
type span struct {
	First int `json:"first"`
	Last  int `json:"last"`
}

// clone returns a copy whose spans do not change with those of s.
func (s *state) clone() state {
	c := *s
	c.Beyond = slices.Clone(s.Beyond)
	return c
}

// has reports whether a row is done.
func (s *state) has(row int) bool {
	return row <= s.Done || slices.ContainsFunc(s.Beyond, func(b span) bool { return b.First <= row && row <= b.Last })
}

// add notes that the rows of a span are done.
func (s *state) add(done span) {
	s.Beyond = append(s.Beyond, done)
	slices.SortFunc(s.Beyond, func(a, b span) int { return a.First - b.First })
	for len(s.Beyond) > 0 && s.Beyond[0].First <= s.Done+1 {
		s.Done = max(s.Done, s.Beyond[0].Last)
		s.Beyond = slices.Delete(s.Beyond, 0, 1)
	}
	for i := len(s.Beyond) - 1; i > 0; i-- {
		if s.Beyond[i-1].Last+1 == s.Beyond[i].First {
			s.Beyond[i-1].Last = s.Beyond[i].Last
			s.Beyond = slices.Delete(s.Beyond, i, i+1)
		}
	}
}

// A stateFile is where a state is saved. The zero stateFile saves nothing.
type stateFile struct{ path string }

// statePath returns the path of the state beside a file of refused rows.
func statePath(results string) string { return results + ".state" }

func (f stateFile) exists() bool {
	_, err := os.Lstat(f.path)
	return err == nil
}

// load returns the state of an earlier import of the same file, or nil.
func (f stateFile) load(want fingerprint) (*state, error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("%s cannot be read: delete it to begin again, which is safe", f.path)
	}
	if s.Input.Modified = s.Input.Modified.UTC(); s.Input != want {
		return nil, fmt.Errorf("%s is of an import that was interrupted, of another file or with other options: "+
			"run that one again to go on, or delete it to begin anew, which is safe", f.path)
	}
	return s, nil
}

// save replaces the file at once, so that it is whole whenever the process ends.
func (f stateFile) save(s *state) error {
	if f.path == "" {
		return nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".*") // its mode is 0600
	if err != nil {
		return err
	}
	_, err = next.Write(text)
	err = errors.Join(err, next.Close())
	if err == nil {
		err = os.Rename(next.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(next.Name()))
	}
	return nil
}

func (f stateFile) remove() error {
	if f.path == "" {
		return nil
	}
	if err := os.Remove(f.path); !errors.Is(err, fs.ErrNotExist) { // no row was done
		return err
	}
	return nil
}
