package sealed

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"filippo.io/age"
)

// ParseRecipient parses the public key that a file is encrypted for, "age1...".
func ParseRecipient(text string) (age.Recipient, error) {
	recipients, err := age.ParseRecipients(strings.NewReader(text))
	if err != nil || len(recipients) != 1 {
		// Not quoted: it may be a private key by mistake.
		return nil, errors.New("this is not the public key of an age key pair, which begins with age1")
	}
	return recipients[0], nil
}

// ReadPassphrase reads the passphrase that a file is encrypted with, from the first line of a file.
func ReadPassphrase(path string) (age.Recipient, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("other users of this machine can read %s: chmod it to 0600", path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	passphrase, _, _ := strings.Cut(string(content), "\n")
	recipient, err := age.NewScryptRecipient(strings.TrimSuffix(passphrase, "\r"))
	if err != nil {
		return nil, fmt.Errorf("%s has no passphrase in its first line", path)
	}
	return recipient, nil
}
