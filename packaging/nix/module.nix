# The NixOS module: imports = [ ./module.nix ];
#
#   services.scnpm = {
#     enable = true;
#     rulesetFile = ./nftables.conf;
#   };
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.scnpm;
in
{
  options.services.scnpm = {
    enable = lib.mkEnableOption "nftables rules that follow systemd units";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalExpression "pkgs.callPackage ./package.nix { }";
      description = "The package to use.";
    };

    rulesetFile = lib.mkOption {
      type = lib.types.path;
      example = lib.literalExpression "./nftables.conf";
      description = ''
        The policy: a file for nft with annotations in its comments. It becomes /etc/nftables.conf, and nftables.service loads
        it, too.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."nftables.conf".source = cfg.rulesetFile;

    networking.nftables = {
      enable = true;
      rulesetFile = lib.mkDefault cfg.rulesetFile;
    };

    users.users.scnpm = {
      isSystemUser = true;
      group = "scnpm";
      extraGroups = [ "systemd-journal" ];
      description = "nftables rules for systemd units";
    };
    users.groups.scnpm = { };

    systemd.packages = [ cfg.package ];
    systemd.generators.scnpm-generator = "${cfg.package}/lib/systemd/system-generators/scnpm-generator";
    systemd.user.generators.scnpm-generator = "${cfg.package}/lib/systemd/user-generators/scnpm-generator";
    # NixOS takes no notice of [Install] in the units of packages.
    systemd.services.scnpm = {
      wantedBy = [ "sysinit.target" ];
      reloadTriggers = [ cfg.rulesetFile ];
    };
  };
}
