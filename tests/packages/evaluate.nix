# Evaluates packaging/nix with a stand-in for nixpkgs, which has just what they use. What is printed is the configuration.
let
  lib = {
    mkOption = declared: { _type = "option"; } // declared;
    mkEnableOption = name: {
      _type = "option";
      default = false;
      description = "Whether to enable ${name}.";
    };
    mkIf = condition: content: if condition then content else { };
    mkDefault = value: value;
    literalExpression = text: { inherit text; };
    types = {
      package = "package";
      path = "path";
    };
    importTOML = path: builtins.fromTOML (builtins.readFile path);
    cleanSource = path: path;
    makeBinPath = packages: builtins.concatStringsSep ":" (map (each: "${each}/bin") packages);
    getLib = package: package;
    licenses.gpl2Plus = "GPL-2.0-or-later";
    platforms.linux = [ "x86_64-linux" ];
  };
  programs = builtins.listToAttrs (
    map
      (name: {
        inherit name;
        value = "/nix/store/${name}";
      })
      [
        "bash"
        "coreutils"
        "findutils"
        "gnugrep"
        "nftables"
        "patchelf"
        "pkg-config"
        "systemd"
        "util-linux"
      ]
  );
  callPackage =
    file: more:
    import file (
      {
        inherit lib;
        rustPlatform.buildRustPackage = arguments: arguments // { outPath = "/nix/store/scnpm"; };
      }
      // programs
      // more
    );
  evaluated = given: import ../../packaging/nix/module.nix {
    inherit lib;
    pkgs = { inherit callPackage; };
    config.services.scnpm = given // { package = (evaluated given).options.services.scnpm.package.default; };
  };
  on = evaluated {
    enable = true;
    rulesetFile = "/policy.conf";
  };
in
{
  off = (evaluated { enable = false; }).config;
  on = on.config // {
    environment = on.config.environment // {
      systemPackages = map toString on.config.environment.systemPackages;
    };
    systemd = on.config.systemd // {
      packages = map toString on.config.systemd.packages;
    };
  };
  package = {
    inherit (on.options.services.scnpm.package.default) pname version installPhase postFixup;
  };
}
