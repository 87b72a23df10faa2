# The package: callPackage ./package.nix { }, with nixpkgs.
{
  lib,
  rustPlatform,
  bash,
  coreutils,
  findutils,
  gnugrep,
  nftables,
  patchelf,
  pkg-config,
  systemd,
  util-linux,
}:

rustPlatform.buildRustPackage {
  pname = "scnpm";
  version = (lib.importTOML ../../Cargo.toml).package.version;

  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;

  buildFeatures = [ "top" ];
  nativeBuildInputs = [
    patchelf
    pkg-config
  ];
  buildInputs = [ systemd ];

  # What the generator writes.
  postPatch = ''
    substituteInPlace src/commands/generate/drop_ins.rs --replace-fail /usr/bin/scnpm "$out/bin/scnpm"
  '';

  # Those on the kernel need root.
  cargoTestFlags = [ "--lib" ];

  installPhase = ''
    runHook preInstall
    packaging/install.sh "$TMPDIR/root" "$(find target -path '*/release/scnpm' -type f | head -n 1)"
    mkdir -p "$out"
    cp -r "$TMPDIR"/root/usr/{bin,lib,share} "$out/"
    rm -r "$out/share/scnpm"
    mv "$out/share/zsh/vendor-completions" "$out/share/zsh/site-functions"
    find "$out/lib" -type f -exec sed -i \
      -e "s|/usr/bin/scnpm|$out/bin/scnpm|g" \
      -e "s|/usr/lib/systemd/systemd-socket-proxyd|${systemd}/lib/systemd/systemd-socket-proxyd|g" \
      -e "s|/usr/bin/install|${coreutils}/bin/install|g" \
      -e "s|/usr/bin/chrt|${util-linux}/bin/chrt|g" \
      -e "s|/bin/sh\b|${bash}/bin/sh|g" {} +
    sed -i "2i PATH=${lib.makeBinPath [ bash findutils gnugrep systemd ]}" "$out/lib/scnpm/restart"
    runHook postInstall
  '';

  # libnftables is opened at run time.
  postFixup = ''
    patchelf --add-rpath "${lib.getLib nftables}/lib" "$out/bin/scnpm"
  '';

  meta = {
    description = "Keeps nftables rules in step with the systemd units and cgroups that they name";
    license = lib.licenses.gpl2Plus;
    mainProgram = "scnpm";
    platforms = lib.platforms.linux;
  };
}
