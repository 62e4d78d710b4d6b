package connector

// Password is the resource owner password credentials grant (RFC 6749 section 4.3).
const Password GrantType = "password"

var grantPassword = Grant{
	Type:      Password,
	Fetches:   true,
	FallsBack: true,
	settings:  usernameAndPassword,
	reserved:  []string{"username", "password"},
	params:    passwordParams,
}

func passwordParams(d *Definition, settings map[string]any) (map[string]string, error) {
	username, err := d.credentialText(settingUsername, settings)
	if err != nil {
		return nil, err
	}
	password, err := d.credentialText(settingPassword, settings)
	if err != nil {
		return nil, err
	}
	return map[string]string{"username": username, "password": password}, nil
}
