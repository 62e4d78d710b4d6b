package connector

import "strings"

// ProbeURL returns the URL of the request that tries a credential, as a [Target] that the
// connection's settings fill in; empty if none is known.
func (d *Definition) ProbeURL() string {
	if d.ProbePath == "" {
		return ""
	}
	return strings.TrimSuffix(d.BaseURL, "/") + d.ProbePath
}

// probe checks probe_path.
func (v *validation) probe() {
	switch path := v.d.ProbePath; {
	case path == "":
		return
	case v.d.BaseURL == "":
		v.fail("probe_path", "needs a base_url")
	case !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//"):
		v.fail("probe_path", "%q does not begin with one slash, as /me does", path)
	case hasDotSegment(path):
		v.fail("probe_path", "%q must not have . or .. in it, in any encoding", path)
	case strings.ContainsAny(path, " \"<>"):
		v.fail("probe_path", "%q has a character that must be percent-encoded", path)
	default:
		target, err := ParseTarget(v.d.ProbeURL(), "", "")
		if err != nil {
			v.fail("probe_path", "%q %w", path, err)
			return
		}
		for _, part := range append(target.path, target.query...) {
			if part.setting != "" && v.d.setting(part.setting) == nil {
				v.fail("probe_path", "%s is not a setting of this connector", part.setting)
			}
		}
	}
}
