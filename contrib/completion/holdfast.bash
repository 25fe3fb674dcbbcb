_holdfast() {
    local IFS=$' \t\n'
    local args cur prev cmd opts arg
    args=("${COMP_WORDS[@]}")
    cur="${COMP_WORDS[COMP_CWORD]}"
    prev="${COMP_WORDS[COMP_CWORD-1]}"
    opts="-h --help"

    args=("${args[@]:1}")
    for arg in "${args[@]}"; do
        case "$arg" in
            lock)
                cmd="lock"
                opts="$opts -h --help -n --limit -t --timeout --name --ttl --lock-delay -i --pass-stdin -s --shell --signal --grace -v --verbose --address --token --token-file --auth --datacenter --namespace --partition --ca-file --ca-path --cert-file --key-file --server-name --http-timeout --no-verify"
                break
                ;;
            locks)
                cmd="locks"
                opts="$opts -h --help -j --json --address --token --token-file --auth --datacenter --namespace --partition --ca-file --ca-path --cert-file --key-file --server-name --http-timeout --no-verify"
                break
                ;;
            sessions)
                cmd="sessions"
                opts="$opts -h --help --node -j --json --address --token --token-file --auth --datacenter --namespace --partition --ca-file --ca-path --cert-file --key-file --server-name --http-timeout --no-verify"
                break
                ;;
            release)
                cmd="release"
                opts="$opts -h --help --session -y --yes --address --token --token-file --auth --datacenter --namespace --partition --ca-file --ca-path --cert-file --key-file --server-name --http-timeout --no-verify"
                break
                ;;
            doctor)
                cmd="doctor"
                opts="$opts -h --help --prefix --ttl --lock-delay -j --json --address --token --token-file --auth --datacenter --namespace --partition --ca-file --ca-path --cert-file --key-file --server-name --http-timeout --no-verify"
                break
                ;;
        esac
    done

    case "$cmd" in
        '')
            COMPREPLY=($(compgen -W "lock locks sessions release doctor" -- "$cur"))
            ;;
        'lock')
            case "$prev" in
                -n|--limit)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                -t|--timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ttl)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --lock-delay)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --signal)
                    COMPREPLY=($(compgen -W "TERM INT HUP QUIT USR1 USR2 KILL" -- "$cur"))
                    return 0
                    ;;
                --grace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --address)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --auth)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --datacenter)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --partition)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-path)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --cert-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --key-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --server-name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --http-timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
            esac

            ;;
        'locks')
            case "$prev" in
                --address)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --auth)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --datacenter)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --partition)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-path)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --cert-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --key-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --server-name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --http-timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
            esac

            ;;
        'sessions')
            case "$prev" in
                --node)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --address)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --auth)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --datacenter)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --partition)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-path)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --cert-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --key-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --server-name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --http-timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
            esac

            ;;
        'release')
            case "$prev" in
                --address)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --auth)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --datacenter)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --partition)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-path)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --cert-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --key-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --server-name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --http-timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
            esac

            ;;
        'doctor')
            case "$prev" in
                --prefix)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ttl)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --lock-delay)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --address)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --token-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --auth)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --datacenter)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --namespace)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --partition)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --ca-path)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --cert-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --key-file)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --server-name)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
                --http-timeout)
                    COMPREPLY=($(compgen -f -- "$cur"))
                    return 0
                    ;;
            esac

            ;;
    esac

    if [[ "$cur" = -* ]]; then
        COMPREPLY=($(compgen -W "$opts" -- "$cur"))
    fi
}

complete -F _holdfast -o bashdefault -o default holdfast
