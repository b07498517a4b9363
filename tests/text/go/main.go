// Runs templates with Go's own text/template, on the values that Ollama gives them.
//
// Reads a JSON list of {"template", "messages", "tools"} from standard input and writes a list
// of {"text"} or {"error"}. The judge of llamune's renderer: `go run main.go < cases.json`.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

type property struct {
	AnyOf       []property          `json:"anyOf,omitempty"`
	Type        kinds               `json:"type,omitempty"`
	Items       any                 `json:"items,omitempty"`
	Description string              `json:"description,omitempty"`
	Enum        []any               `json:"enum,omitempty"`
	Properties  map[string]property `json:"properties,omitempty"`
	Required    []string            `json:"required,omitempty"`
}

// kinds is one type name or several.
type kinds []string

func (k *kinds) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*k = kinds{one}
		return nil
	}
	var many []string
	err := json.Unmarshal(data, &many)
	*k = many
	return err
}

func (k kinds) MarshalJSON() ([]byte, error) {
	if len(k) == 1 {
		return json.Marshal(k[0])
	}
	return json.Marshal([]string(k))
}

func (k kinds) String() string {
	switch len(k) {
	case 0:
		return ""
	case 1:
		return k[0]
	}
	return fmt.Sprint([]string(k))
}

func asJSON(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(data)
}

type properties map[string]property

func (p properties) String() string { return asJSON(p) }

type arguments map[string]any

func (a arguments) String() string { return asJSON(a) }

type parameters struct {
	Type       string     `json:"type"`
	Defs       any        `json:"$defs,omitempty"`
	Items      any        `json:"items,omitempty"`
	Required   []string   `json:"required,omitempty"`
	Properties properties `json:"properties"`
}

type function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  parameters `json:"parameters"`
}

type tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function function `json:"function"`
}

func (t tool) String() string { return asJSON(t) }

type tools []tool

func (t tools) String() string { return asJSON(t) }

type callFunction struct {
	Index     int
	Name      string
	Arguments arguments
}

type call struct {
	ID       string
	Function callFunction
}

type message struct {
	Role       string
	Content    string
	Thinking   string
	Images     []string
	ToolCalls  []call `json:"tool_calls"`
	ToolName   string `json:"tool_name"`
	ToolCallID string `json:"tool_call_id"`
}

type job struct {
	Template string
	Messages []message
	Tools    tools
}

type result struct {
	Text  *string `json:"text,omitempty"`
	Error string  `json:"error,omitempty"`
}

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		panic(err)
	}
	results := make([]result, len(jobs))
	for i, one := range jobs {
		text, err := run(one)
		if err != nil {
			results[i].Error = err.Error()
		} else {
			results[i].Text = &text
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(results); err != nil {
		panic(err)
	}
}

func run(one job) (string, error) {
	parsed, err := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{
		"json": asJSON,
	}).Parse(one.Template)
	if err != nil {
		return "", err
	}
	system, joined := join(one.Messages)
	var out strings.Builder
	if strings.Contains(strings.ToLower(one.Template), "messages") {
		values := map[string]any{"System": system, "Messages": joined, "Tools": one.Tools}
		values["Response"] = ""
		err = parsed.Execute(&out, values)
		return out.String(), err
	}
	if !strings.Contains(one.Template, ".Response") {
		parsed = template.Must(parsed.Parse(one.Template + "{{ .Response }}"))
	}
	last, err := rounds(parsed, joined, &out)
	if err != nil {
		return "", err
	}
	cut(parsed.Tree.Root)
	err = parsed.Execute(&out, last)
	return out.String(), err
}

// rounds writes all rounds but the last, and returns the values of the last.
func rounds(parsed *template.Template, messages []*message, out *strings.Builder) (map[string]any, error) {
	now := map[string]any{"System": "", "Prompt": "", "Response": ""}
	next := func() error {
		err := parsed.Execute(out, now)
		now = map[string]any{"System": "", "Prompt": "", "Response": ""}
		return err
	}
	for _, m := range messages {
		late := m.Role == "user" && now["Response"] != ""
		late = late || m.Role == "system" && (now["Prompt"] != "" || now["Response"] != "")
		if late {
			if err := next(); err != nil {
				return nil, err
			}
		}
		switch m.Role {
		case "system":
			now["System"] = m.Content
		case "user":
			now["Prompt"] = m.Content
		case "assistant":
			now["Response"] = m.Content
		}
	}
	return now, nil
}

// cut drops what follows the first action that writes .Response, and reports whether it found one.
func cut(list *parse.ListNode) bool {
	if list == nil {
		return false
	}
	for i, node := range list.Nodes {
		found := false
		switch n := node.(type) {
		case *parse.ActionNode:
			found = strings.Contains(n.String(), ".Response")
		case *parse.IfNode:
			found = cut(n.List) || cut(n.ElseList)
		case *parse.RangeNode:
			found = cut(n.List) || cut(n.ElseList)
		case *parse.WithNode:
			found = cut(n.List) || cut(n.ElseList)
		}
		if found {
			list.Nodes = list.Nodes[:i+1]
			return true
		}
	}
	return false
}

func join(messages []message) (string, []*message) {
	var system []string
	var joined []*message
	for i := range messages {
		m := messages[i]
		if m.Role == "system" {
			system = append(system, m.Content)
		}
		if n := len(joined); n > 0 && joined[n-1].Role == m.Role && m.Role != "tool" {
			joined[n-1].Content += "\n\n" + m.Content
		} else {
			joined = append(joined, &m)
		}
	}
	return strings.Join(system, "\n\n"), joined
}
