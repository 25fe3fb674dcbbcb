// Consul 1.14.11 as a Go tool, for `make consul-newer`: the last line under the MPL that builds unpatched.
module consul-newer

go 1.24

tool github.com/hashicorp/consul

require (
	github.com/hashicorp/consul v1.14.11
	github.com/hashicorp/hcp-sdk-go v0.99.0 // the one that Consul asks for is not served
)

// Consul's own modules, which its go.mod takes from its own tree.
replace (
	github.com/hashicorp/consul/api => github.com/hashicorp/consul/api v1.18.1
	github.com/hashicorp/consul/proto-public => github.com/hashicorp/consul/proto-public v0.2.1
	github.com/hashicorp/consul/sdk => github.com/hashicorp/consul/sdk v0.13.0
)

// Retagged: these would be taken for newer than the one that Consul was written for.
exclude (
	github.com/hashicorp/go-msgpack v1.1.5
	github.com/hashicorp/go-msgpack v1.1.6
)
